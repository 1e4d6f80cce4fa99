"""The product and its peers side by side on one broker -> a table with ratios, results.json, a chart."""
