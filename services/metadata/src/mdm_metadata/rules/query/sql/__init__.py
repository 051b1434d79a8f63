"""The typed tree to SQL, with bind parameters only, and with bounds on memory."""
