"""Kong: its external plugins over the plugin server's protocol, and native handlers as one of them."""
