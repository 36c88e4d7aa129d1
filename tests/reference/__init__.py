"""What the tests compare with: file writers and oracles that never import the package."""
