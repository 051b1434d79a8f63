-- The AE title to which PACS send what an instance asks for by C-MOVE; empty where it does not. Instances that serve have different ones.
ALTER TABLE srm_instance ADD COLUMN move_title text COLLATE "C" NOT NULL DEFAULT '';
