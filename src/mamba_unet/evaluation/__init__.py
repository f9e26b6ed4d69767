"""Cases measured against their labels: metrics, tables with intervals over patients, paired tests."""
