/// What a session may do to a repository, as the administrator names it.
///
/// Raw values are the words of `--permissions` and of `BORG_REPO_PERMISSIONS`. What each admits to which
/// names is `Policy`'s to say, in `Session`. Source: borg 2.0.0b18 `archiver/serve_cmd.py`, `repository.py`
/// `Repository.__init__`.
public enum Permissions: String, CaseIterable, Sendable {
  /// Everything; nothing is checked.
  case all
  /// Read and add; delete and overwrite nothing.
  case noDelete = "no-delete"
  /// Add; read no archives, delete and overwrite nothing.
  case writeOnly = "write-only"
  case readOnly = "read-only"
}
