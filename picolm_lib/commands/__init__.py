"""What the commands do: each reads its options, puts the parts of the package together, prints."""
