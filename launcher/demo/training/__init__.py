"""How the demo model was made: `python -m launcher.demo.training` does it again. Not part of the wheel."""
