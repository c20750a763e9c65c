"""For engineers: edit a model of one's own with one's own facts, ask and evaluate it, look after patches, serve them."""
