"""A worker that keeps a process and its model between cells, and that process."""
