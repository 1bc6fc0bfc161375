/// The file `README` of a Borg 1 repository, by which a directory is known to be one when another is created.
///
/// Source: borg 1.4.5 `borg/constants.py`, `borg/repository.py`.
public enum SegmentReadme {
  /// What is written on creation.
  public static let bytes = Array(
    "This is a Borg Backup repository.\nSee https://borgbackup.readthedocs.io/\n".utf8)

  /// Bytes at the beginning of the file that are looked at.
  public static let headSize = 100

  /// Whether a file that begins so is the readme of a repository; of more than 100 bytes the first are looked at.
  public static func isRepositoryReadme(_ head: [UInt8]) -> Bool {
    let head = head.prefix(headSize)
    return marks.contains { head.contains($0) }
  }

  /// Today's words, and those of Borg 1.0.
  private static let marks = [Array("Borg Backup repository".utf8), Array("Borg repository".utf8)]
}

/// The file `transactions`, which a repository in append-only mode gets a line in for each transaction.
public enum TransactionLog {
  /// The line for a transaction that was committed at a time, with its end of line.
  ///
  /// The form has microseconds, of which the last three digits are zero here.
  public static func line(transaction: UInt32, time: Timestamp) -> [UInt8] {
    // 2026-11-23T01:45:49.311, without the zone behind it.
    let moment = time.iso8601.utf8.prefix(23)
    return Array("transaction \(transaction), UTC time ".utf8) + moment + Array("000\n".utf8)
  }
}
