import Disk

/// A repository path as clients of Borg 1.x spell it, with the forms for home directories resolved.
///
/// Source: borg 1.4.5 `src/borg/remote.py` `RepositoryServer._resolve_path`.
enum ClientPath {
  /// What a path means before links are resolved: `/~/x` and `~/x` lie in the base directory (`BORG_BASE_DIR`, else the
  /// home directory), `/~user/x` and `~user/x` in that user's, `/./x` in the working directory. A user that is not known
  /// makes the path what it literally is.
  static func expanded(_ path: [UInt8], environment: (String) -> [UInt8]? = Host.environment) -> [UInt8] {
    let slash = UInt8(ascii: "/")
    if path.starts(with: "/./".utf8) { return Array(path.dropFirst(3)) }
    var rest = path[...]
    // A URL's path always begins with a slash.
    if rest.first == slash, rest.dropFirst().first == UInt8(ascii: "~") { rest = rest.dropFirst() }
    guard rest.first == UInt8(ascii: "~") else { return path }
    let name = rest.dropFirst().prefix { $0 != slash }
    let below = rest.dropFirst(1 + name.count)
    let home = name.isEmpty ? baseDirectory(environment) : Host.homeDirectory(of: Array(name))
    guard let home else { return Array(rest) }
    return home + below
  }

  private static func baseDirectory(_ environment: (String) -> [UInt8]?) -> [UInt8]? {
    for variable in ["BORG_BASE_DIR", "HOME"] {
      if let value = environment(variable), !value.isEmpty { return value }
    }
    return Host.homeDirectory()
  }
}
