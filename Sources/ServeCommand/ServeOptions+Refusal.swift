extension ServeOptions {
  /// Why no repository of Borg 2 may be opened, in one sentence, or nil: what was demanded of the server and cannot be
  /// enforced there is refused, never dropped. Repositories of Borg 1.x know it.
  public var refusalOfBorg2: String? {
    if appendOnly {
      return
        "--append-only is for repositories of Borg 1.x; for those of Borg 2 there is --permissions no-delete."
    }
    return nil
  }
}
