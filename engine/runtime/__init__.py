"""Where models run: sessions and providers, device arrays, memory budgets, the machine."""
