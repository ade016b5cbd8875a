"""The custom resources, one file a kind."""
