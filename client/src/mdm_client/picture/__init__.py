"""Pictures of images: chosen, put side by side, and drawn in terminals."""
