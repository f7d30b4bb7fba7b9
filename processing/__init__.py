"""What is made of files: presets, rows of derivatives, children behind walls."""
