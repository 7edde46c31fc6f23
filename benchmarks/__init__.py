"""Side-by-side measurements; each prints a table and, with --json FILE, writes one JSON object."""
