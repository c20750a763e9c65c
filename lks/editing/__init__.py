"""The contract of methods: an `Editor` makes a `Patch`, which makes a model the edited one."""
