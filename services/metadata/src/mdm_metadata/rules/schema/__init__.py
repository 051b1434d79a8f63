"""What a collection is: creating and dropping collections, changing their schemas, views, sequences."""
