"""Cases measured: metrics, tables with intervals over patients, paired tests."""
