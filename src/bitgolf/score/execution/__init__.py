"""How predictions are computed: eager or compiled forwards, batch sizes, copies, time estimates."""
