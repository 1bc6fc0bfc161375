extension ServeOptions {
  /// Why no repository may be opened, in one sentence, or nil: what was demanded of the server and cannot be
  /// enforced is refused, never dropped.
  public var refusal: String? {
    if appendOnly { return "--append-only is not supported by this version yet." }
    if storageQuota ?? 0 > 0 { return "--storage-quota is not supported by this version yet." }
    return nil
  }
}
