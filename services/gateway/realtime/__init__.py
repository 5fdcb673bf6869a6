"""The topics -> follow -> told -> news -> hub -> every WebSocket; replay -> one that comes back."""
