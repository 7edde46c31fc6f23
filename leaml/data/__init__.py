"""Reading data sources, drawing the label budget and writing the contract tables."""
