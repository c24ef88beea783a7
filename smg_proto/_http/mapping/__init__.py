"""What each RPC is over HTTP: tables of fields, and readers of streams. One module per API."""
