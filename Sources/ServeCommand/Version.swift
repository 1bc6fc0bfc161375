/// The program's own version, in one place for `--version`, logs and packages.
public enum Version {
  /// Semantic version of borg-serve, not of any Borg.
  public static let number = "0.1.0"

  /// What `--version` prints, without the line end.
  ///
  /// The second word is the number, as in the original's `borg 2.0.0b18`, so `borg --version | cut -d' '
  /// -f2` works.
  public static let line = "borg-serve \(number) (speaks borg 1.1-1.4 and 2.0.0b16-b21)"
}
