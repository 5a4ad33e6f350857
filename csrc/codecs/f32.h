// float: used in place, so there is nothing to load or store.
struct F32 {
  using Stored = float;
};
