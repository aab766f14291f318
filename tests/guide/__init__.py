"""The pages of docs/guide, executed as a reader would."""
