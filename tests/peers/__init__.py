"""Programs of other people's making (or over their code) that tests run as separate processes."""
