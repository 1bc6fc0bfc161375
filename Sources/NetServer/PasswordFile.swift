import BorgFormat
import CCrypt
import Glibc

/// A user's password as libxcrypt hashes it.
struct HashedPassword: Sendable, Equatable {
  /// Method, cost, salt and digest in one text, as `htpasswd -B` and `mkpasswd` print them.
  let text: String

  /// Nil for what is no hash of a kind that holds against guessing: bcrypt (`$2y$`, `$2b$`, `$2a$`), yescrypt (`$y$`, `$gy$`),
  /// scrypt (`$7$`), sha512crypt (`$6$`) and sha256crypt (`$5$`).
  init?(_ text: String) {
    guard Self.methods.contains(where: text.hasPrefix), text.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7f }),
      Self.hash(Array("".utf8), setting: text)?.utf8.count == text.utf8.count
    else { return nil }
    self.text = text
  }

  private static let methods = ["$2y$", "$2b$", "$2a$", "$y$", "$gy$", "$7$", "$6$", "$5$"]

  /// Whether it is this password's. Takes as long as the hash was meant to cost, some 5 to 500 ms.
  func admits(_ password: [UInt8]) -> Bool {
    guard !password.contains(0), let found = Self.hash(password, setting: text) else { return false }
    let (left, right) = (Array(found.utf8), Array(text.utf8))
    guard left.count == right.count else { return false }
    var difference: UInt8 = 0
    for (one, other) in zip(left, right) { difference |= one ^ other }
    return difference == 0
  }

  /// crypt(3), by a work area of its own, so that threads do not meet.
  private static func hash(_ password: [UInt8], setting: String) -> String? {
    let phrase = password.map { CChar(bitPattern: $0) } + [0]
    let area = UnsafeMutablePointer<crypt_data>.allocate(capacity: 1)
    defer {
      // It holds what was hashed.
      unsafe explicit_bzero(area, MemoryLayout<crypt_data>.size)
      unsafe area.deallocate()
    }
    unsafe memset(area, 0, MemoryLayout<crypt_data>.size)
    guard let result = unsafe crypt_rn(phrase, setting, area, Int32(MemoryLayout<crypt_data>.size)) else {
      return nil
    }
    let text = unsafe String(cString: result)
    return text.hasPrefix("*") ? nil : text
  }
}

/// A credentials file: lines `user:hash`, as htpasswd(1) makes and changes them; empty lines and ones that begin with `#`
/// count for nothing.
struct PasswordFile: Sendable, Equatable {
  private(set) var passwords: [String: HashedPassword] = [:]

  init() {}

  /// Throws what is wrong with the first bad line, never the line itself.
  init(parsing text: String) throws(ConfigurationProblem) {
    for (number, line) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
      let line = line.hasSuffix("\r") ? line.dropLast() : line
      if line.trimmed.isEmpty || line.hasPrefix("#") { continue }
      guard let colon = line.firstIndex(of: ":"), colon > line.startIndex else {
        throw ConfigurationProblem(line: number + 1, "is not of the form user:hash")
      }
      let user = String(line[..<colon])
      guard passwords[user] == nil else {
        throw ConfigurationProblem(line: number + 1, key: user, "is given twice")
      }
      // htpasswd may put a comment behind a further colon.
      let text = line[line.index(after: colon)...].prefix { $0 != ":" }
      guard let password = HashedPassword(String(text)) else {
        throw ConfigurationProblem(
          line: number + 1, key: user,
          "has no hash that is taken here: bcrypt (htpasswd -B), yescrypt, scrypt, sha512crypt or sha256crypt"
        )
      }
      passwords[user] = password
    }
  }
}
