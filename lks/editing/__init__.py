"""The interface of methods: an `Editor` makes a `Patch`, which turns a model into the edited one."""
