"""Reports as one HTML file each, with plots in SVG: nothing is fetched when they are opened."""
