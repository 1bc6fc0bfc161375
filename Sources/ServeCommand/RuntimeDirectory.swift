/// Where a server and its clients look for `borg.sock` when neither is given a path.
///
/// The first of these that may be used counts. Source: borg 2.0.0b18 `helpers/fs.py` `get_runtime_dir`; platformdirs
/// `unix.py` `user_runtime_dir`.
public struct RuntimeDirectory: Hashable, Sendable {
  /// What a directory has to be before anything is put into it.
  public enum Condition: Hashable, Sendable {
    /// Named by the administrator: it is used, and made if it is missing.
    case none
    /// This user's alone: mode 0700 and no link. One that is missing is made, or passed over.
    case isPrivate(made: Bool)
    /// Made if it is missing, else made private if it is this user's: it lies where everybody may make directories.
    case isMadePrivate
  }

  /// What `condition` is about.
  public let base: [UInt8]
  public let condition: Condition
  /// The directory itself: `base`, or below it.
  public let path: [UInt8]

  /// The socket's name in it.
  public var socket: [UInt8] { path + Array("/borg.sock".utf8) }

  private init(_ base: [UInt8], _ condition: Condition, below: String = "") {
    self.base = base
    self.condition = condition
    path = base + Array(below.utf8)
  }

  /// The candidates in their order. An empty variable counts as none.
  public static func candidates(userID: Int, environment: (String) -> [UInt8]?) -> [RuntimeDirectory] {
    func value(_ name: String) -> [UInt8]? { environment(name).flatMap { $0.isEmpty ? nil : $0 } }
    if let directory = value("BORG_RUNTIME_DIR") { return [.init(directory, .none)] }
    if let directory = value("BORG_BASE_DIR") { return [.init(directory, .none, below: "/.cache/borg")] }
    var candidates: [RuntimeDirectory] = []
    if let directory = value("XDG_RUNTIME_DIR"), directory.first == UInt8(ascii: "/") {
      candidates.append(.init(directory, .isPrivate(made: true), below: "/borg"))
    }
    candidates.append(.init(Array("/run/user/\(userID)".utf8), .isPrivate(made: false), below: "/borg"))
    let temporary = value("TMPDIR") ?? value("TEMP") ?? value("TMP") ?? Array("/tmp".utf8)
    let own = temporary + Array("/runtime-\(userID)".utf8)
    candidates.append(.init(own, .isMadePrivate, below: "/borg"))
    return candidates
  }
}
