extension ServeOptions {
  /// Why no repository may be opened, in one sentence, or nil: what was demanded of the server and cannot be
  /// enforced is refused, never dropped.
  ///
  /// `permissions` is the value of `BORG_REPO_PERMISSIONS`, which counts where no option was given.
  public func refusal(permissions environment: [UInt8]?) -> String? {
    switch Permissions.effective(option: permissions, environment: environment) {
    case .failure(let invalid): return invalid.message
    case .success(.all): break
    case .success(let mode):
      return "The permissions mode \(mode.rawValue) is not supported by this version yet."
    }
    if appendOnly { return "--append-only is not supported by this version yet." }
    if storageQuota ?? 0 > 0 { return "--storage-quota is not supported by this version yet." }
    return nil
  }
}
