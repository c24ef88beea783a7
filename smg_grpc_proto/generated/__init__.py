"""Where the old import path kept its generated modules; here too they are smg_proto's own."""
