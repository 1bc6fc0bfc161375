public import BorgFormat

/// What `borg-serve authorize` was asked for: a line of `authorized_keys` that lets the holder of a key start
/// this server, with these restrictions, and nothing else.
///
/// Paths are absolute, without `.` and `..`. Both lists of restrictions are empty only where the
/// administrator has said that this is meant.
public struct AuthorizeOptions: Hashable, Sendable {
  /// Bytes of the longest line, without its end. Before 7.7, OpenSSH read 8 KiB with the end and a NUL.
  public static let lineLimit = 8 * 1024 - 2

  public internal(set) var restrictToPaths: [[UInt8]] = []
  public internal(set) var restrictToRepositories: [[UInt8]] = []
  /// Nil: not given, so that the server goes on to its environment.
  public internal(set) var permissions: Permissions?
  /// The server's path; nil: the running program's.
  public internal(set) var program: [UInt8]?
  /// Where the public key is; nil: on standard input.
  public internal(set) var keyFile: [UInt8]?

  /// The line for the text of a `.pub` file, without a line end.
  ///
  /// `executable` is the path of the running program, if it is known. Of the bytes of `keyLimit` and more
  /// nobody needs to read further. Throws when the key is refused (see `PublicKey`), when there is no path
  /// for the program, or when the line would be longer than sshd reads.
  public func line(publicKey text: [UInt8], executable: [UInt8]?) throws(RefusedKey) -> [UInt8] {
    let key = try PublicKey(parsing: text)
    let command = try command(executable: executable)
    guard let value = ShellQuoting.authorizedKeysValue(command) else {
      throw RefusedKey("authorized_keys has no spelling for a command that ends with a backslash")
    }
    let line = Array("command=".utf8) + value + Array(",restrict ".utf8) + key.line
    guard line.count <= Self.lineLimit else {
      throw RefusedKey("the line would have \(line.count) bytes, and sshd reads \(Self.lineLimit)")
    }
    return line
  }

  /// Bytes of a key file that are read; one more than a key may have.
  public static let keyLimit = PublicKey.sizeLimit + 1

  private func command(executable: [UInt8]?) throws(RefusedKey) -> [UInt8] {
    var words = [ShellQuoting.quotedIfNeeded(try effectiveProgram(executable)), Array("serve".utf8)]
    for (name, paths) in [
      ("--restrict-to-path", restrictToPaths), ("--restrict-to-repository", restrictToRepositories),
    ] {
      for path in paths { words += [Array(name.utf8), ShellQuoting.quoted(path)] }
    }
    if let permissions { words.append(Array("--permissions=\(permissions.rawValue)".utf8)) }
    return Array(words.joined(separator: [UInt8(ascii: " ")]))
  }

  private func effectiveProgram(_ executable: [UInt8]?) throws(RefusedKey) -> [UInt8] {
    if let program { return program }
    guard let executable else { throw RefusedKey("where this program is cannot be told; give --program") }
    do throws(ForcedPath.Failure) {
      return try ForcedPath.normalized(executable)
    } catch {
      throw RefusedKey("this program's path cannot stand in a command; give --program: \(error.rawValue)")
    }
  }
}
