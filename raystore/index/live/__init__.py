"""An index in use: the newest version of the collection over the newest number, inline or by actors; folded as rows come."""
