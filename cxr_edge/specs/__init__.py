"""Values that training, bundle and device agree on: preprocessing, lung box, combination, decision."""
