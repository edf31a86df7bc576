//! Pages of made-up journals.
