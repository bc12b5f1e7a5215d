"""Pages, drawings, tables, JUnit and job summaries."""
