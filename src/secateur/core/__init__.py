"""Ground floor: errors, names, random numbers, devices, atomic files, progress."""
