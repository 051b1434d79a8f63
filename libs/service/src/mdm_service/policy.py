"""Which role may call which method: one table, default deny."""

from collections.abc import Mapping

USER = "user"
OPERATOR = "operator"
DICOM_SRM = "service.dicom-srm"
KEYSTORE_PEER = "peer.keystore"
#: A metadata service that keeps copies of this one's subtrees.
METADATA_PEER = "peer.metadata"
#: Reads metrics and asks for health, nothing else.
MONITOR = "monitor"
#: Decides about images that wait for a person, on the hospital's side.
CURATOR = "curator"
#: A job that shows the token of a user: it may ask what reading needs, and nothing else. No configuration gives this role.
DELEGATE = "delegate"
#: Roles a configuration may give to subjects. Only a subject without any is a user.
ROLES = frozenset({OPERATOR, DICOM_SRM, KEYSTORE_PEER, METADATA_PEER, MONITOR, CURATOR})

_SERVICES_AND_USERS = frozenset({USER, OPERATOR, DICOM_SRM, KEYSTORE_PEER})
_HEALTH_CALLERS = _SERVICES_AND_USERS | {MONITOR, METADATA_PEER, CURATOR, DELEGATE}
_CLIENTS = frozenset({USER, OPERATOR, DICOM_SRM})
_READERS = _CLIENTS | {DELEGATE}
_USERS = frozenset({USER})
_KEY_USERS = frozenset({USER, DICOM_SRM})
_OPERATORS = frozenset({OPERATOR})
_DICOM_SRM = frozenset({DICOM_SRM})
_KEYSTORES = frozenset({KEYSTORE_PEER})
_CURATORS = frozenset({CURATOR})


def _rows(service: str, **methods: frozenset[str]) -> dict[str, frozenset[str]]:
    return {f"/{service}/{method}": roles for method, roles in methods.items()}


#: Full method name → roles. What a caller may do with an object is a matter of its ACL; this says who may ask at all.
POLICY: Mapping[str, frozenset[str]] = {
    **_rows("grpc.health.v1.Health", Check=_HEALTH_CALLERS, List=_HEALTH_CALLERS, Watch=_HEALTH_CALLERS),
    **_rows("grpc.reflection.v1alpha.ServerReflection", ServerReflectionInfo=_OPERATORS),
    **_rows("mdm.delegation.v1.DelegationService", RevokeDelegation=_USERS),
    **_rows("mdm.acl.v1.AclService", CreateAcls=_CLIENTS, GetAcls=_CLIENTS, ModifyAcls=_CLIENTS),
    **_rows(
        "mdm.keystore.v1.KeystoreService",
        GetServerInfo=_SERVICES_AND_USERS | {DELEGATE},
        CreateKeys=_KEY_USERS,
        ConfirmKeys=_KEY_USERS,
        GetShares=_KEY_USERS | {DELEGATE},
        DeleteKeys=_CLIENTS,
        GetKeyAttributes=_CLIENTS,
        AssignAcls=_CLIENTS,
        ListKeys=_CLIENTS,
    ),
    **_rows(
        "mdm.keystore.v1.KeystoreAdminService",
        BeginResharing=_OPERATORS,
        GetResharing=_OPERATORS,
        CancelResharing=_OPERATORS,
        RewrapShares=_OPERATORS,
        ListAuditEntries=_OPERATORS,
        ListWitnessedHeads=_OPERATORS,
    ),
    **_rows(
        "mdm.keystore.v1.KeystorePeerService",
        ListHeldKeys=_KEYSTORES,
        Deal=_KEYSTORES,
        TakeSubshares=_KEYSTORES,
        Prepare=_KEYSTORES,
        Commit=_KEYSTORES,
        Retire=_KEYSTORES,
        Discard=_KEYSTORES,
        GetRound=_KEYSTORES,
        WitnessHead=_KEYSTORES,
    ),
    **_rows(
        "mdm.catalog.v1.CatalogService",
        MakeDirectories=_CLIENTS,
        RegisterFiles=_CLIENTS,
        Stat=_READERS,
        List=_READERS,
        Find=_READERS,
        GetUsage=_CLIENTS,
        MakeLinks=_CLIENTS,
        Rename=_CLIENTS,
        Resolve=_READERS,
        CheckAccess=_DICOM_SRM,
        StatFor=_DICOM_SRM,
        ListFor=_DICOM_SRM,
        SetFileAttributes=_CLIENTS,
        Remove=_CLIENTS,
        AssignAcls=_CLIENTS,
        ListSubtreeAcls=_CLIENTS,
        ModifySubtreeAcls=_CLIENTS,
        ReportAccess=_CLIENTS,
        AddReplicas=_CLIENTS,
        ChangeReplicas=_CLIENTS,
        RemoveReplicas=_CLIENTS,
        ListReplicas=_READERS,
        FindReplicas=_CLIENTS,
        Apply=_CLIENTS,
    ),
    **_rows(
        "mdm.metadata.v1.MetadataService",
        CreateCollections=_CLIENTS,
        ListCollections=_READERS,
        DropCollections=_CLIENTS,
        UpsertEntries=_CLIENTS,
        DeleteEntries=_CLIENTS,
        ListEntryKeys=_OPERATORS | _DICOM_SRM,
        AssignAcls=_CLIENTS,
        Query=_READERS,
        Change=_CLIENTS,
        Explain=_OPERATORS,
        AlterCollection=_CLIENTS,
        CreateViews=_CLIENTS,
        CreateSequence=_CLIENTS,
        DropSequence=_CLIENTS,
        TakeNumbers=_CLIENTS,
        ListSequences=_CLIENTS,
    ),
    **_rows("mdm.metadata.v1.MetadataFeedService", Subscribe=frozenset({METADATA_PEER}), ListReplicas=_OPERATORS),
    **_rows(
        "mdm.srm.v1.SrmService",
        Ping=_SERVICES_AND_USERS | {DELEGATE},
        GetTransferProtocols=_READERS,
        PrepareToGet=_READERS,
        StatusOfGetRequest=_READERS,
        WatchGetRequest=_READERS,
        ReleaseFiles=_READERS,
        AbortRequest=_READERS,
        BringOnline=_READERS,
        AbortFiles=_READERS,
        ExtendFileLifeTime=_READERS,
        SuspendRequest=_READERS,
        ResumeRequest=_READERS,
        GetRequestSummary=_READERS,
        GetRequestTokens=_READERS,
        Ls=_READERS,
        CheckPermission=_READERS,
        GetSpaceTokens=_CLIENTS,
        GetSpaceMetaData=_CLIENTS,
    ),
    **_rows("mdm.srm.v1.TransferService", Read=_READERS, ReadFiles=_READERS),
    **_rows(
        "mdm.srm.v1.ResultService",
        PrepareToPut=_USERS,
        Write=_USERS,
        StatusOfPutRequest=_USERS,
        PutDone=_USERS,
        AbortPut=_USERS,
        Rm=_USERS | _OPERATORS,
    ),
    **_rows(
        "mdm.srm.v1.RegistrationService",
        RegisterStudies=_OPERATORS,
        GetRegistrationSummary=_OPERATORS,
        ListRegistrations=_OPERATORS,
        RetryRegistrations=_OPERATORS,
        ListConflicts=_OPERATORS,
        StartScan=_OPERATORS,
        WatchScan=_OPERATORS,
        ListScans=_OPERATORS,
        CancelScan=_OPERATORS,
        Unregister=_OPERATORS,
    ),
    **_rows("mdm.srm.v1.SiteService", GetSiteStatus=_OPERATORS, ListReasons=_OPERATORS, GetPolicy=_OPERATORS),
    **_rows(
        "mdm.srm.v1.CuratorService",
        ListQuarantine=_CURATORS,
        ListQuarantinedKinds=_CURATORS,
        ListQuarantinedInstances=_CURATORS,
        GetQuarantined=_CURATORS,
        GetQuarantinedPicture=_CURATORS,
        GetQuarantinedHead=_CURATORS,
        FindText=_CURATORS,
        CreatePixelRule=_CURATORS,
        ListPixelRules=_CURATORS,
        EndPixelRule=_CURATORS,
        ReleaseQuarantined=_CURATORS,
        DropQuarantined=_CURATORS,
        RetryQuarantined=_CURATORS,
        ListDecisions=_CURATORS,
    ),
}


def allows(method: str, roles: frozenset[str], policy: Mapping[str, frozenset[str]] = POLICY) -> bool:
    """Return whether a caller with these roles may call `method` (`/package.Service/Method`); False for an unknown method."""
    return bool(policy.get(method, frozenset()) & roles)
