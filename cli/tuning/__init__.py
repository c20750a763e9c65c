"""Command `lks tune`: what it shows, and the files that it writes."""
