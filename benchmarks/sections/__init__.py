"""What is measured, one matter a module. A section takes the run and what it needs of its stage, and adds results."""
