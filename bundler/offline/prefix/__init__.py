"""The folder that releases are installed in: their paths, receipts, markers, and who may write there."""
