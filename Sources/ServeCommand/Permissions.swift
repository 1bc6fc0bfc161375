public import BorgFormat

extension Permissions {
  /// Exactly one of the four words: no abbreviation, no other case, no white space.
  init?(word: [UInt8]) {
    guard let match = Self.allCases.first(where: { word.elementsEqual($0.rawValue.utf8) }) else { return nil }
    self = match
  }

  /// What holds for a session: the option if given, else `BORG_REPO_PERMISSIONS`, else `all`.
  ///
  /// A value of the variable that is none of the four words (the empty one too) does not stop the process:
  /// it is kept as a failure, with which every `open` has to be answered. The option wins over such a
  /// value.
  public static func effective(
    option: Permissions?, environment value: [UInt8]?
  ) -> Result<Permissions, InvalidPermissions> {
    if let option { return .success(option) }
    guard let value else { return .success(.all) }
    guard let permissions = Permissions(word: value) else {
      return .failure(InvalidPermissions(value: value))
    }
    return .success(permissions)
  }
}

/// `BORG_REPO_PERMISSIONS` holds something that is not a permission.
public struct InvalidPermissions: Error, Hashable, Sendable {
  /// The variable's value, as it was.
  public let value: [UInt8]

  /// The argument of the `Error` reply to `open`, in the original's words.
  ///
  /// The value is shortened and freed of control characters. Source: borg 2.0.0b18 `repository.py`.
  public var message: String {
    let names = Permissions.allCases.map(\.rawValue).joined(separator: ", ")
    return "Invalid BORG_REPO_PERMISSIONS value: \(printable(value)), should be one of: \(names)."
  }
}
