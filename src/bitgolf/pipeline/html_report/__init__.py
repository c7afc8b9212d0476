"""`report.html`: the result of a run as one page. It imports matplotlib, which only the stage `report` may load."""
