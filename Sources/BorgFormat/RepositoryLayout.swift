/// What stands in a repository of version 3 besides its objects, byte for byte.
///
/// Source: borg 2.0.0b18 `src/borg/repository.py` and `constants.py`; the same from b16 to b21.
public enum RepositoryLayout {
  public static let version: Int64 = 3
  public static let readme = "This is a Borg Backup repository.\nSee https://borgbackup.readthedocs.io/\n"

  public static let readmeName = StoreName(.config, "readme")
  public static let versionName = StoreName(.config, "version")
  public static let idName = StoreName(.config, "id")
  public static let manifestName = StoreName(.config, "manifest")
  public static let keyName = StoreName(.keys, "repokey")

  /// Where a partial check notes how far it came; b16 keeps it in `config/`.
  public static func checkpointName(for client: BorgVersion?) -> StoreName {
    if let client, client < BorgVersion.checkpointInCache { return StoreName(.config, "last-key-checked") }
    return StoreName(.cache, "last-key-checked")
  }

  /// Fragments of the chunk index are `cache/chunks.` and 16 hex digits.
  public static let chunkIndexPrefix = "chunks."

  /// `config/space-reserve.N`: fillers that can be deleted when a disk is full.
  public static let spaceReservePrefix = "space-reserve."

  /// Where a session keeps what it has not published yet: `NAMESPACE/borg-serve.tmp/SESSION/NUMBER`.
  ///
  /// The ending hides it from the original's listings, in every version.
  public static let stagingDirectory = "borg-serve.tmp"

  /// Where what is stored is counted, at the top of a repository or of a directory with many: the count, a file by which
  /// those who count know of each other, and borgstore's own count.
  public static let usageName = "borg-serve-usage.hid"
  public static let usageUsersName = "borg-serve-usage-users.hid"
  public static let quotaName = "quota.hid"

  /// Names at the top of a repository that `destroy` may remove besides its namespaces.
  public static let hiddenEntries: Set<String> = [usageName, usageUsersName, quotaName]

  /// Names at the top of a repository that `destroy` may remove.
  public static let ownEntries: Set<String> = Set(Namespace.allCases.map(\.rawValue)).union(hiddenEntries)
}
