"""What every benchmark shares: process pairs, loads, statistics, tables. Knows no peer."""
