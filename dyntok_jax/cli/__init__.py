"""The `dyntok` command, one file a subcommand: parse, call, print."""
