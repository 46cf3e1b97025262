"""What can be asked of a view: filters, pages, ranges, diversity; and the answer."""
