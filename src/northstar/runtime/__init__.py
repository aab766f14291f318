"""The runtime: configuration, repositories, containers and the console."""
