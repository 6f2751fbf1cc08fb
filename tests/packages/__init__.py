"""The package, and the commands of the image, in a Debian of their own: `make packages-test`."""
